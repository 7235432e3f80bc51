# frozen_string_literal: true

unified_mode true
provides :picoseg_list
resource_name :picoseg_list

property :list_name, String, name_property: true, regex: PicosegCookbook::Files::NAME
property :entries, Array, required: %i[create]

default_action :create

action :create do
  text = PicosegCookbook::Files.list(new_resource.list_name, new_resource.entries)
  picoseg_file('lists', new_resource.list_name, text)
end

action :delete do
  no_picoseg_file('lists', new_resource.list_name)
end

action_class do
  include PicosegCookbook::Actions
end
