"""The ground that evidence is gathered on: real tasks, tasks drawn by code, and other labels for real photographs."""
