"""Networks: batched ensembles, dynamics reward, actor, critics, behaviour clone (torch)."""
