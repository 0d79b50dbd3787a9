"""The local environment, replicated: what a scan found becomes a plan, the plan an env's requirements and roots.

`plan` decides what becomes of each package, and why; `solve` finds the exact files, relaxing what has to be and saying so; `replica`
puts both in front of the ordinary way of an env. What was installed can be kept as a lock; `locked` makes an env of one.
"""

from runkit.client.replicate.plan import Plan, Planned, make_plan
from runkit.client.replicate.replica import Replica, add_roots, prepare, replicate

__all__ = ["Plan", "Planned", "Replica", "add_roots", "make_plan", "prepare", "replicate"]
