# frozen_string_literal: true

require 'facter'

RSpec.describe 'the fact picoseg' do
  subject(:fact) { Facter.value(:picoseg) }

  let(:status) do
    '{"schema":1,"version":"0.1.0","now":"2026-01-01T00:00:00Z","mode":"enforce","services":{"open":1,"closed":2},' \
      '"config":{"ok":false,"error":"bad.toml"},"store":{"ok":true,"error":null},"attempts_total":7}'
  end
  let(:program) { '/usr/bin/picoseg' }

  before do
    Facter.clear
    allow(Facter).to receive(:value).and_call_original
    allow(Facter::Core::Execution).to receive(:which).and_call_original
    allow(Facter::Core::Execution).to receive(:which).with('picoseg').and_return(program)
    allow(Facter::Core::Execution).to receive(:execute).and_call_original
    allow(Facter::Core::Execution).to receive(:execute)
      .with('/usr/bin/picoseg status --json', on_fail: nil, timeout: 3).and_return(status)
    load File.expand_path('../../lib/facter/picoseg.rb', __dir__)
  end

  after { Facter.clear }

  it 'is what the daemon says, without what differs each time' do
    expect(fact).to eq(
      'version' => '0.1.0', 'mode' => 'enforce', 'services' => { 'open' => 1, 'closed' => 2 },
      'config' => { 'ok' => false }, 'store' => { 'ok' => true }
    )
  end

  context 'when picoseg is not installed' do
    let(:program) { nil }

    it { is_expected.to be_nil }
  end

  # Nothing where the daemon does not answer: the command ends with an error, or was killed.
  ['', nil, '{', '{"schema":1,"error":"no"}', 'null', '[]'].each do |said|
    context "when the answer is #{said.inspect}" do
      let(:status) { said }

      it { is_expected.to be_nil }
    end
  end
end
