"""Fine-tuning: training that starts from the weights of a run, a model or a checkpoint."""
