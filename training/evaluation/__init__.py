"""Quality of models: metrics, evaluation, comparison, reports and hyperparameter search."""
