"""The gateway without transport: validates, assigns, decides, keeps episodes and overrides, tells its status.

May import `routing` and what stands below it.
"""
