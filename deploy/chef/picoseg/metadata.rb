# frozen_string_literal: true

name 'picoseg'
maintainer 'The picoseg authors'
license 'MIT OR Apache-2.0'
description 'Time-boxed segmentation of third-party access with picoseg'
version '0.1.0'
chef_version '>= 16.0'
supports 'debian', '>= 12.0'
