"""Security decides who may ask and over which wires: tokens, tenants, TLS."""
