# frozen_string_literal: true

RSpec.describe 'picoseg::service' do
  let(:title) { 'pay' }
  let(:file) { '/etc/picoseg/services.d/pay.toml' }

  context 'with what it must have' do
    let(:params) { service_parameters }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_class('picoseg') }

    it 'writes a schedule, judged before it counts' do
      is_expected.to contain_file(file)
        .with(ensure: 'file', owner: 'root', group: 'root', mode: '0644', validate_cmd: '/usr/bin/picoseg check --as service %')
        .with_content(<<~'TOML')
          # Managed by Puppet: changes made here are undone at its next run.
          provider = "Example Provider Ltd"
          owner = "owner@example.com"

          [lifetime]
          commission = 2026-01-01T00:00:00Z
          decommission = 2036-12-31T00:00:00+01:00

          [[egress]]
          subject = { unit = "pay.service" }
          to = ["192.0.2.10"]
          ports = ["443/tcp"]
        TOML
    end

    it 'comes after the settings and before what is in force' do
      is_expected.to contain_file(file).that_requires('File[/etc/picoseg/picoseg.toml]')
      is_expected.not_to contain_file(file).that_comes_before('Service[picosegd]')
      is_expected.to contain_file(file).that_comes_before('Exec[picoseg apply]')
    end
  end

  context 'with every key' do
    let(:params) do
      # In another order than that of the file.
      {
        'teardown' => { 'watch' => '365d' },
        'ingress' => [{ 'ports' => ['8443/tcp'], 'from' => ['203.0.113.0/24'], 'subject' => { 'container' => 'web' } }],
        'egress' => [
          {
            'windows' => ['office'], 'tls' => 'required', 'ports' => ['443/tcp', '8000-8100/tcp', '*/udp', 'icmp'],
            'to' => ['@ranges', '2001:db8::/48', '*.example.com'],
            'subject' => { 'exe' => '/usr/bin/x', 'sha256' => '0' * 64 },
          },
          { 'subject' => { 'user' => '1000' }, 'to' => ['any'], 'ports' => ['53/udp'] },
        ],
        'except' => [{ 'close' => '2026-12-27T00:00:00+01:00', 'open' => '2026-12-24T00:00:00+01:00' }],
        'window' => [
          { 'timezone' => 'Europe/Berlin', 'duration' => '9h', 'cron' => '0 9 * * Mon-Fri', 'name' => 'office' },
          { 'cron' => '0 22 * * *', 'until' => '23:30' },
          { 'close' => '2026-02-02T02:00:00Z', 'open' => '2026-02-01T22:00:00.5Z', 'name' => 'once' },
        ],
        'state' => 'suspended', 'mode' => 'observe', 'compliance' => ['PCI-DSS', 'SOX'], 'ticket' => 'SEC-1',
        'description' => 'Card payments',
      }.merge(service_parameters) { |_, mine, _| mine }
    end

    it 'writes them in the order of the documentation' do
      is_expected.to contain_file(file).with_content(<<~TOML)
        # Managed by Puppet: changes made here are undone at its next run.
        provider = "Example Provider Ltd"
        owner = "owner@example.com"
        description = "Card payments"
        ticket = "SEC-1"
        compliance = ["PCI-DSS", "SOX"]
        mode = "observe"
        state = "suspended"

        [lifetime]
        commission = 2026-01-01T00:00:00Z
        decommission = 2036-12-31T00:00:00+01:00

        [[window]]
        name = "office"
        cron = "0 9 * * Mon-Fri"
        duration = "9h"
        timezone = "Europe/Berlin"

        [[window]]
        cron = "0 22 * * *"
        until = "23:30"

        [[window]]
        name = "once"
        open = 2026-02-01T22:00:00.5Z
        close = 2026-02-02T02:00:00Z

        [[except]]
        open = 2026-12-24T00:00:00+01:00
        close = 2026-12-27T00:00:00+01:00

        [[egress]]
        subject = { exe = "/usr/bin/x", sha256 = "#{'0' * 64}" }
        to = ["@ranges", "2001:db8::/48", "*.example.com"]
        ports = ["443/tcp", "8000-8100/tcp", "*/udp", "icmp"]
        tls = "required"
        windows = ["office"]

        [[egress]]
        subject = { user = "1000" }
        to = ["any"]
        ports = ["53/udp"]

        [[ingress]]
        subject = { container = "web" }
        from = ["203.0.113.0/24"]
        ports = ["8443/tcp"]

        [teardown]
        watch = "365d"
      TOML
    end
  end

  context 'with a text that would be another key' do
    let(:params) { service_parameters.merge('provider' => %(Evil" Ltd\nstate = "commissioned"\n#\\), 'description' => 'Zürich 🦀') }

    it 'stays one value of one key' do
      is_expected.to contain_file(file)
        .with_content(%r{^provider = "Evil\\" Ltd\\u000Astate = \\"commissioned\\"\\u000A#\\\\"\n^owner = })
        .with_content(%r{^description = "Zürich 🦀"$})
        .without_content(%r{^state})
    end
  end

  context 'with ensure => decommissioned' do
    let(:params) { service_parameters.merge('ensure' => 'decommissioned', 'state' => 'suspended') }

    it { is_expected.to contain_file(file).with_ensure('file').with_content(%r{^state = "decommissioned"$}).without_content(%r{suspended}) }
  end

  context 'with ensure => absent' do
    let(:params) { { 'ensure' => 'absent' } }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_file(file).with_ensure('absent').that_comes_before('Exec[picoseg apply]') }
  end

  ['provider', 'owner', 'lifetime'].each do |parameter|
    context "without #{parameter}" do
      let(:params) { service_parameters.reject { |key, _| key == parameter } }

      it { is_expected.to compile.and_raise_error(%r{Picoseg::Service\[pay\]: missing: #{parameter}}) }
    end
  end

  context 'without a policy' do
    let(:params) { service_parameters.merge('egress' => []) }

    it { is_expected.to compile.and_raise_error(%r{needs an egress or an ingress policy}) }
  end

  ['Pay', '-pay', 'a' * 64, 'pay.toml', '../pay', "pay\n"].each do |bad|
    context "with the name #{bad.inspect}" do
      let(:title) { bad }
      let(:params) { service_parameters }

      it { is_expected.to compile.and_raise_error(%r{Picoseg::Name}) }
    end
  end

  policy = service_parameters['egress'].first
  {
    'lifetime' => { 'commission' => '2026-01-01', 'decommission' => '2036-12-31T00:00:00Z' },
    'window' => [{ 'cron' => '* * * * *' }],
    'except' => [{ 'open' => '2026-12-24T00:00:00Z' }],
    'egress' => [policy.merge('ports' => ['443'])],
    'ingress' => [policy],
    'teardown' => { 'watch' => 'always' },
    'mode' => 'off',
    'state' => 'open',
    'ensure' => 'suspended',
  }.each do |parameter, value|
    context "with #{parameter} => #{value}" do
      let(:params) { service_parameters.merge(parameter => value) }

      it { is_expected.to compile.and_raise_error(%r{parameter '#{parameter}'}) }
    end
  end
end
