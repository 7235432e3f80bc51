# frozen_string_literal: true

unified_mode true
provides :picoseg_service
resource_name :picoseg_service

writing = %i[create suspend decommission].freeze

property :service_name, String, name_property: true, regex: PicosegCookbook::Files::NAME
property :provider_name, String, required: writing
property :owner, String, required: writing
property :description, String
property :ticket, String
property :compliance, Array
property :mode, String, equal_to: %w[enforce observe]
property :lifetime, Hash, required: writing
property :window, Array
property :except, Array
property :egress, Array
property :ingress, Array
property :teardown, Hash

default_action :create

action :create do
  write_service(nil)
end

action :suspend do
  write_service('suspended')
end

# Its file stays and says so: what the provider tries is refused and counted.
action :decommission do
  write_service('decommissioned')
end

# Without its file it is decommissioned, too.
action :delete do
  no_picoseg_file('services', new_resource.service_name)
end

action_class do
  include PicosegCookbook::Actions

  def write_service(state)
    keys = %i[owner description ticket compliance mode lifetime window except egress ingress teardown]
    table = { provider: new_resource.provider_name, state: state }
    keys.each { |key| table[key] = new_resource.send(key) }
    picoseg_file('services', new_resource.service_name, PicosegCookbook::Files.toml(table))
  end
end
