# frozen_string_literal: true

unified_mode true
provides :picoseg_segment
resource_name :picoseg_segment

property :segment_name, String, name_property: true, regex: PicosegCookbook::Files::NAME
property :subject, Hash, required: %i[create]
property :mode, String, equal_to: %w[enforce observe]
property :loopback, [true, false]
property :dns, [true, false]
property :allow, Array

default_action :create

action :create do
  keys = %i[subject mode loopback dns allow]
  table = keys.to_h { |key| [key, new_resource.send(key)] }
  picoseg_file('segments', new_resource.segment_name, PicosegCookbook::Files.toml(table))
end

action :delete do
  no_picoseg_file('segments', new_resource.segment_name)
end

action_class do
  include PicosegCookbook::Actions
end
