"""Tests of cutting models."""
