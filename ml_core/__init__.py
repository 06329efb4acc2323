"""The parts Surety is made of: features, conformal sets, models, serving, pipelines."""
