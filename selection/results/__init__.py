"""Results: a tuned model as a folder that describes itself, and what is done with it afterwards."""
