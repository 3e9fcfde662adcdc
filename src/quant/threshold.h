/* SPDX-License-Identifier: Apache-2.0 */
/* From what was observed of a value to the magnitude that becomes the largest integer. */
#ifndef TDN_QUANT_THRESHOLD_H
#define TDN_QUANT_THRESHOLD_H

#include "quant/observe.h"
#include "tendon/calibrate.h"

/* 0 where nothing but zeros was seen. `percentile` of TDN_CALIBRATION_PERCENTILE alone. */
double tdn_threshold(const tdn_observed *observed, tdn_calibration_method method,
                     double percentile);
/* The share of the observed beyond it, by bins. */
double tdn_threshold_clipped(const tdn_observed *observed, double amax);

#endif
