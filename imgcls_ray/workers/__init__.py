"""How any job runs and survives: deaths, stopping, progress. Only the modules ``ray_*`` know Ray."""
