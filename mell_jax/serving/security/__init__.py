"""Who may ask, and over which wires: tokens, tenants, TLS; files reloaded on change."""
