"""Behaviour policies in NeoRL's manner (arXiv 2102.00714): soft actor-critic, stopped at published returns.

`policy` acts with a kept one (onnxruntime alone), `train` makes them (the extra [collect]). Logs made with them are
regenerated data by NeoRL's protocol; they are not NeoRL's data.
"""
