"""Run directories -> tables and verdicts. Reads files through `genxai.runs`, never a model and never torch."""
