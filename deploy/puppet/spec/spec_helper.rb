# frozen_string_literal: true

require 'rspec-puppet'

# Both releases of rspec-puppet that Debian has link the module into spec/fixtures by themselves.
fixtures = File.join(__dir__, 'fixtures')

RSpec.configure do |config|
  config.module_path = File.join(fixtures, 'modules')
  config.hiera_config = File.join(fixtures, 'hiera.yaml')
  config.strict_variables = true
  config.mock_with :rspec
  config.disable_monkey_patching!
  # Names of the facts that this module's resources look at: none but the provider of services.
  config.default_facts = {
    'kernel' => 'Linux',
    'os' => { 'family' => 'Debian', 'name' => 'Debian', 'release' => { 'major' => '12', 'full' => '12' } },
    'service_provider' => 'systemd',
    'path' => '/usr/bin:/bin',
  }
end

# A service with everything that it must have.
def service_parameters
  {
    'provider' => 'Example Provider Ltd',
    'owner' => 'owner@example.com',
    'lifetime' => { 'commission' => '2026-01-01T00:00:00Z', 'decommission' => '2036-12-31T00:00:00+01:00' },
    'egress' => [{ 'subject' => { 'unit' => 'pay.service' }, 'to' => ['192.0.2.10'], 'ports' => ['443/tcp'] }],
  }
end
