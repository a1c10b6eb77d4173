"""One fleet over processes and machines: controller, engine hosts and front ends."""
