// SPDX-License-Identifier: Apache-2.0

package auth

import "sync"

// cache is a bounded map in two generations: when the young one is full it
// becomes the old one and what is in that is forgotten. What is used lives on,
// nothing is ever counted or scanned, and a flood of new keys costs at most the
// work of computing the others again.
type cache[K comparable, V any] struct {
	size int // of one generation

	mu         sync.Mutex
	young, old map[K]V // guarded by mu
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.young[k]; ok {
		return v, true
	}
	v, ok := c.old[k]
	if ok {
		c.keep(k, v)
	}
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(k, v)
}

// keep runs under mu.
func (c *cache[K, V]) keep(k K, v V) {
	if c.young == nil || len(c.young) >= c.size {
		c.old, c.young = c.young, make(map[K]V)
	}
	c.young[k] = v
}
