"""The gRPC door: the Open Inference Protocol for programs that speak it so. Imported only when it is opened."""
