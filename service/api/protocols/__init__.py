"""APIs of other projects, so that their clients work unchanged."""
