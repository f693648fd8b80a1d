"""The HTTP door: the Open Inference Protocol, the dashboard and the metrics, for programs that are not ours."""
