"""Tuning: one configuration, several tries each chosen in the light of those before, or a budget of seconds."""
