// SPDX-License-Identifier: Apache-2.0

// Package bus carries doorbells and questions between the replicas of a server:
// NATS core, in process by default (no port), an external cluster where a URL is
// given. The database is the truth; losing every message on the bus loses
// nothing but speed, and nobody on the bus can forge an order or a receipt.
package bus
