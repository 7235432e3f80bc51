# frozen_string_literal: true

settings = node['picoseg']['settings']
text = PicosegCookbook::Files.toml(settings)
path = PicosegCookbook::Files::SETTINGS

directories = %w[services segments lists].map { |kind| PicosegCookbook::Files.directory(settings, kind) }
['/etc/picoseg', *directories].uniq.each do |one|
  directory one do
    owner 'root'
    group 'root'
    mode '0755'
  end
end

file path do
  content text
  owner 'root'
  group 'root'
  mode '0644'
  verify 'picoseg check --as settings %{path}'
  notifies PicosegCookbook::Files.restart?(path, text) ? :restart : :reload, 'service[picosegd]', :delayed
end
