"""What check_serving needs: a client that costs little, a server to ask, one to send away."""
