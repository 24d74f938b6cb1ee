"""What a run is: the typed configuration (`schema`), its YAML (`loading`), checks, identity and cost (`estimate`)."""
