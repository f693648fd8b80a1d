"""The Open Inference Protocol (KServe v2): what its words mean in a mesh, once for HTTP and gRPC."""
