# frozen_string_literal: true

# InSpec: what Test Kitchen looks at after two converges.
describe service('picosegd') do
  it { is_expected.to be_enabled }
  it { is_expected.to be_running }
end

describe command('picoseg status --json') do
  its('exit_status') { is_expected.to eq 0 }
  its('stdout') { is_expected.to match(/"config":\s*\{\s*"ok":\s*true/) }
end

describe file('/etc/picoseg/picoseg.toml') do
  its('mode') { is_expected.to cmp '0644' }
  its('content') { is_expected.to match(/\A# Managed by Chef/) }
end
