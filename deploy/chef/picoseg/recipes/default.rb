# frozen_string_literal: true

include_recipe 'picoseg::package'
include_recipe 'picoseg::config'
include_recipe 'picoseg::service'
