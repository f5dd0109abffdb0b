//go:build critest

// Package conformance names what critest is made of, so that its modules and their sums are on record: critest is a test program, which no
// tool line can name.
package conformance

import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
