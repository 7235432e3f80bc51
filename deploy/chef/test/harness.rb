#!/usr/bin/env ruby
# frozen_string_literal: true

# DSL harness, not Chef.
#
# There is no Chef client in Debian, and CI cannot install one. This executes the part of Chef's language that the cookbook
# uses, as Chef documents it: attributes, libraries, recipes, custom resources with typed properties, and the resources
# package, dpkg_package, directory, file, template, service, execute and notify_group, with verify, notifies, guards and
# why-run. What the cookbook uses beyond that fails here as an unknown method. It is a test double: it proves that the
# cookbook's own code runs and what it does to a host, not that every release of Chef does the same.
#
#   ruby harness.rb --cookbook DIR [--attributes JSON] [--why-run] RECIPE_FILE
#
# Prints one line for each change and their number; exits 1 where something fails, like chef-client.

require 'json'
require_relative 'harness/language'
require_relative 'harness/resources'
require_relative 'harness/run'

if $PROGRAM_NAME == __FILE__
  require 'optparse'
  options = { attributes: {}, why_run: false }
  OptionParser.new do |parser|
    parser.on('--cookbook DIR') { |dir| options[:cookbook] = dir }
    parser.on('--attributes JSON') { |text| options[:attributes] = JSON.parse(text) }
    parser.on('--why-run') { options[:why_run] = true }
  end.parse!
  run = Harness::Run.new(options[:cookbook], attributes: options[:attributes], why_run: options[:why_run])
  exit(run.converge(File.read(ARGV.fetch(0)), ARGV.fetch(0)) ? 0 : 1)
end
