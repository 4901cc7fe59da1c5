"""The checklist: ten automated checks before a deployment and eight after it, and the gate that reads them.

Checks return findings; what follows from them is the stage's to do. May import `canary` and what stands below it.
"""
