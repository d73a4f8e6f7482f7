"""A metric and a network that hpdm-eval finds by their entry points, which name the modules beside this file."""
