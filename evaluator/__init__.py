"""From a term to a measured result: modules on kernels, gates, proxy tasks, training, executors, replay."""
