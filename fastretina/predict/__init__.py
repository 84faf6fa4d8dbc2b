"""The command ``fastretina predict``: single photographs, graded by a run's network."""
