"""Points followed through clips: how they are read, tracked and measured (kinds `tap_vid` and `key_points`)."""
