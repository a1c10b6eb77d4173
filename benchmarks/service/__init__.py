"""Measures what front ends cost, and floods, cancels and churn."""
