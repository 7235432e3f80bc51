# frozen_string_literal: true

require 'json'

# What the daemon says of itself. There is no fact where it is not installed, not running, or does not answer in time.
#
#   { "version": "0.1.0", "mode": "enforce", "services": { "open": 1, "closed": 0, ... },
#     "config": { "ok": true }, "store": { "ok": true } }
#
# Deliberately absent: whatever differs at each run of an agent.
Facter.add(:picoseg) do
  confine kernel: 'Linux'
  setcode do
    program = Facter::Core::Execution.which('picoseg')
    next unless program

    begin
      said = Facter::Core::Execution.execute("#{program} status --json", on_fail: nil, timeout: 3)
      status = JSON.parse(said.to_s)
      {
        'version' => status['version'],
        'mode' => status['mode'],
        'services' => status.fetch('services'),
        'config' => { 'ok' => status.fetch('config')['ok'] },
        'store' => { 'ok' => status.fetch('store')['ok'] },
      }
    rescue JSON::ParserError, KeyError, Facter::Core::Execution::ExecutionFailure
      nil
    end
  end
end
