// The reference problem as a Stan user writes it. Source: MODEL.md of the published problem.
functions {
  vector field(real t, vector y, vector p) {
    real occ = 1 - y[3] / p[2];
    real h = p[1] * y[2] * y[1] * occ;
    real g = p[13] / (p[13] + sum(y[11:16]));
    vector[16] rate;
    rate[1] = -p[3] * y[1] - h;
    rate[2] = p[14] * (1 - y[2]);
    rate[3] = h + (1.5 * occ - 1) * p[4] * y[3];
    rate[4] = 8 * p[4] * y[3] - p[5] * y[4];
    rate[5] = 2 * p[5] * y[4] - p[5] * y[5];
    rate[6] = 2 * p[5] * y[5] - p[5] * y[6];
    rate[7] = 2 * p[5] * y[6] * y[2] + (p[6] - 1.2) * y[7];
    rate[8] = 1.2 * y[7] - 0.3 * y[8];
    rate[9] = 0.02 * p[8] * y[8] - p[7] * y[9];
    rate[10] = 0.02 * (1 - p[8]) * y[8] - p[7] * y[10];
    rate[11] = 4 * p[7] * y[9] + (0.5 * p[11] * g - p[9] - 0.02) * y[11];
    rate[12] = 4 * p[7] * y[10] + (0.5 * p[11] * g - p[9] - 0.02) * y[12];
    rate[13] = p[9] * y[11] + (p[11] * g - p[10] - 0.0015) * y[13];
    rate[14] = p[9] * y[12] + (1.2 * p[11] * g - p[10] - 0.0015) * y[14];
    rate[15] = 2 * 0.0015 * y[13] + (p[12] * g - 0.025) * y[15];
    rate[16] = 2 * 0.0015 * y[14] + (1.5 * p[12] * g - 0.025) * y[16];
    return rate;
  }
}
data {
  int<lower=1> subjects;
  int<lower=1> most;                              // visits of the subject with the most
  int<lower=1> rows;
  vector[subjects] dose;
  array[subjects] real dose_time;
  array[subjects] int<lower=1> visits;
  array[subjects, most] real visit_time;
  array[rows] int<lower=1> subject;
  array[rows] int<lower=1> visit;
  array[rows] int<lower=1> observable;
  vector[rows] log_value;
  array[rows] int<lower=0, upper=1> censored;
  vector[14] prior_mean;
  vector[14] prior_sd;
  array[5] int varying;
  vector[5] omega_scale;
  real sigma_scale;
  real rel_tol;
  real abs_tol;
}
parameters {
  vector[14] z;
  vector<lower=0>[5] omega;
  vector<lower=0>[4] sigma;
  matrix[5, subjects] eta;
}
model {
  array[subjects] matrix[most, 4] log_seen;
  for (i in 1:subjects) {
    vector[14] log_p = prior_mean + prior_sd .* z;
    for (k in 1:5) log_p[varying[k]] += omega[k] * eta[k, i];
    vector[14] p = exp(log_p);
    vector[16] y0 = rep_vector(0, 16);
    y0[2] = 0.15;
    y0[3] = 0.001;
    y0[15] = 6;
    y0[16] = 5;
    array[visits[i]] vector[16] y;
    if (dose_time[i] > 0) {
      array[1] vector[16] before = ode_bdf_tol(field, y0, 0.0, {dose_time[i]}, rel_tol, abs_tol, 100000, p);
      vector[16] after = before[1];
      after[1] += dose[i];
      y = ode_bdf_tol(field, after, dose_time[i], visit_time[i, 1:visits[i]], rel_tol, abs_tol, 100000, p);
    } else {
      y0[1] += dose[i];
      y = ode_bdf_tol(field, y0, 0.0, visit_time[i, 1:visits[i]], rel_tol, abs_tol, 100000, p);
    }
    for (j in 1:visits[i]) {
      log_seen[i][j, 1] = log(y[j][11] + y[j][13] + y[j][15] + 1e-6);
      log_seen[i][j, 2] = log(y[j][12] + y[j][14] + y[j][16] + 1e-6);
      log_seen[i][j, 3] = log(y[j][11] + y[j][13] + 1e-6);
      log_seen[i][j, 4] = log(y[j][11] + 1e-6);
    }
  }
  z ~ std_normal();
  to_vector(eta) ~ std_normal();
  omega ~ normal(0, omega_scale);
  sigma ~ normal(0, sigma_scale);
  for (n in 1:rows) {
    real center = log_seen[subject[n]][visit[n], observable[n]];
    if (censored[n])
      target += normal_lcdf(log_value[n] | center, sigma[observable[n]]);
    else
      log_value[n] ~ normal(center, sigma[observable[n]]);
  }
}
