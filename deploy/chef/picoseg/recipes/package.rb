# frozen_string_literal: true

if node['picoseg']['package']['source']
  dpkg_package node['picoseg']['package']['name'] do
    source node['picoseg']['package']['source']
  end
else
  package node['picoseg']['package']['name']
end
