"""What runs in production: the gateway service, its runners, the policy package and the Python client."""
