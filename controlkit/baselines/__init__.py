"""Baselines with the same code: what MOREC is compared with, each a setting or a short file."""
