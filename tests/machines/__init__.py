"""The cores as rule-based machines: any course of events, beside a model that is simple enough to be believed."""
