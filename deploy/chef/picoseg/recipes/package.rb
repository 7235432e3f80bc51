# frozen_string_literal: true

if node['picoseg']['package']['source']
  dpkg_package node['picoseg']['package']['name'] do
    source node['picoseg']['package']['source']
    # picoseg.toml is the cookbook's: without this dpkg would ask what to do about it.
    options '--force-confold'
    action :upgrade
  end
else
  package node['picoseg']['package']['name']
end
