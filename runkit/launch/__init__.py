"""How a host comes to have runkit: the code that is packed for it, and the script that sets it up."""
