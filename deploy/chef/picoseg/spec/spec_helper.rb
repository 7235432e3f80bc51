# frozen_string_literal: true

# ChefSpec where it is installed; otherwise a stand-in on the DSL harness, which is not Chef.
begin
  require 'chefspec'
rescue LoadError
  require_relative '../../test/harness/spec'
end
require 'tempfile'

RSpec.configure do |config|
  config.disable_monkey_patching! unless defined?(ChefSpec)
  config.expose_dsl_globally = true
end
