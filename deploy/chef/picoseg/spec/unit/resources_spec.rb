# frozen_string_literal: true

require_relative '../spec_helper'

describe 'picoseg_service' do
  platform 'debian', '12'
  step_into :picoseg_service

  path = '/etc/picoseg/services.d/pay.toml'
  lifetime = { commission: '2026-01-01T00:00:00Z', decommission: '2026-12-31T00:00:00Z' }

  context 'with every key' do
    recipe do
      picoseg_service 'pay' do
        provider_name 'Stripe, Inc.'
        owner 'payments@example.com'
        description 'Card payments'
        ticket 'SEC-1423'
        compliance %w[PCI-DSS]
        mode 'observe'
        lifetime lifetime
        window [{ name: 'office', cron: '0 9 * * Mon-Fri', duration: '9h', timezone: 'Europe/Berlin' }]
        except [{ open: '2026-12-24T00:00:00+01:00', close: '2026-12-27T00:00:00+01:00' }]
        egress [{ subject: { unit: 'pay.service' }, to: ['@stripe'], ports: ['443/tcp'], tls: 'required', windows: ['office'] }]
        ingress [{ subject: { unit: 'hook.service' }, from: ['203.0.113.0/24'], ports: ['8443/tcp'] }]
        teardown watch: '365d'
      end
    end

    it 'writes the file as people would, checked before it is there' do
      text = <<~TOML
        # Managed by Chef, cookbook picoseg: what is changed here is changed back.
        provider = "Stripe, Inc."
        owner = "payments@example.com"
        description = "Card payments"
        ticket = "SEC-1423"
        compliance = ["PCI-DSS"]
        mode = "observe"

        [lifetime]
        commission = 2026-01-01T00:00:00Z
        decommission = 2026-12-31T00:00:00Z

        [teardown]
        watch = "365d"

        [[window]]
        name = "office"
        cron = "0 9 * * Mon-Fri"
        duration = "9h"
        timezone = "Europe/Berlin"

        [[except]]
        open = 2026-12-24T00:00:00+01:00
        close = 2026-12-27T00:00:00+01:00

        [[egress]]
        subject = { unit = "pay.service" }
        to = ["@stripe"]
        ports = ["443/tcp"]
        tls = "required"
        windows = ["office"]

        [[ingress]]
        subject = { unit = "hook.service" }
        from = ["203.0.113.0/24"]
        ports = ["8443/tcp"]
      TOML
      is_expected.to create_file(path).with(content: text, owner: 'root', group: 'root', mode: '0644')
      expect(chef_run.file(path)).to notify('service[picosegd]').to(:reload).delayed
    end
  end

  { suspend: 'suspended', decommission: 'decommissioned' }.each do |act, state|
    context "with the action #{act}" do
      recipe do
        picoseg_service 'pay' do
          provider_name 'P'
          owner 'o'
          lifetime lifetime
          action act
        end
      end

      it { is_expected.to create_file(path).with(content: /^state = "#{state}"$/) }
    end
  end

  context 'with the action delete' do
    recipe do
      picoseg_service 'pay' do
        action :delete
      end
    end

    it 'needs nothing else, and has it put in force' do
      is_expected.to delete_file(path)
      expect(chef_run.file(path)).to notify('service[picosegd]').to(:reload).delayed
    end
  end

  context 'with directories elsewhere' do
    default_attributes['picoseg']['settings']['paths']['services'] = '/srv/services'
    recipe do
      picoseg_service 'pay' do
        action :delete
      end
    end

    it { is_expected.to delete_file('/srv/services/pay.toml') }
  end
end

describe 'picoseg_segment' do
  platform 'debian', '12'
  step_into :picoseg_segment
  recipe do
    picoseg_segment 'payments' do
      subject unit: 'payments.service'
      loopback true
      dns false
      allow [{ direction: 'egress', to: ['10.0.0.0/8'], ports: ['5432/tcp'] }]
    end
  end

  it 'writes the file' do
    text = <<~TOML
      # Managed by Chef, cookbook picoseg: what is changed here is changed back.
      subject = { unit = "payments.service" }
      loopback = true
      dns = false

      [[allow]]
      direction = "egress"
      to = ["10.0.0.0/8"]
      ports = ["5432/tcp"]
    TOML
    is_expected.to create_file('/etc/picoseg/segments.d/payments.toml').with(content: text)
  end
end

describe 'picoseg_list' do
  platform 'debian', '12'
  step_into :picoseg_list
  recipe do
    picoseg_list 'stripe' do
      entries ['192.0.2.1', '2001:db8::/32']
    end
  end

  it { is_expected.to create_file('/etc/picoseg/lists/stripe.txt').with(content: %r{^192\.0\.2\.1\n2001:db8::/32\n\z}) }
end

describe 'picoseg::default' do
  platform 'debian', '12'
  recipe do
    include_recipe 'picoseg::default'
  end

  it 'installs, configures and starts it' do
    is_expected.to install_package('picoseg')
    is_expected.to create_directory('/etc/picoseg/services.d')
    is_expected.to create_file('/etc/picoseg/picoseg.toml').with(content: /\A# Managed by Chef/)
    is_expected.to enable_service('picosegd')
    is_expected.to start_service('picosegd')
  end

  context 'with a file of the package' do
    default_attributes['picoseg']['package']['source'] = '/root/picoseg.deb'

    it { is_expected.to upgrade_dpkg_package('picoseg').with(source: '/root/picoseg.deb') }
  end
end
