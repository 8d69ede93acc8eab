// SPDX-License-Identifier: Apache-2.0

// Package agent carries orders out on one device. It owns the life of the
// agent and the steps of a containment; what each step needs (index, process,
// gate, vault, journal, guard, link) is a package of its own below it.
//
// It promises that an accepted order is carried out once, through any number of
// crashes; that a receipt says Proven only after a last look found nothing left;
// and that no process is killed and no file moved whose content is not the one
// that was named.
package agent
