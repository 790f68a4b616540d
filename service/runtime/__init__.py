"""Load generators and run them. No HTTP and no BentoML in here."""
