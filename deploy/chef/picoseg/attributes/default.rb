# frozen_string_literal: true

# The package: by its name from the repositories of the node, or a file of Debian's format that lies on it.
default['picoseg']['package']['name'] = 'picoseg'
default['picoseg']['package']['source'] = nil

# The keys of picoseg.toml; what is left out has picoseg's default.
default['picoseg']['settings'] = {}
